"""Sets of tensorflow-datasets are read without TensorFlow, and a missing one says what to do."""

import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
import tensorflow_datasets as tfds

from seqjax.data import batches, tfds_source


class Words(tfds.core.GeneratorBasedBuilder):
    """A small set, prepared in the test's folder."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"text": tfds.features.Text(), "label": tfds.features.Scalar(np.int32)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples(5), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for n in range(count):
            yield n, {"text": "ä" * (n + 1), "label": n}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Words(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_a_prepared_set_is_a_sequence_of_examples(data_dir):
    source = tfds_source("words", split="train", data_dir=data_dir)
    assert len(source) == 5
    found = sorted((row["text"].decode(), int(row["label"])) for row in source)
    assert found == [("ä" * (n + 1), n) for n in range(5)]
    examples = {
        "bytes": [list(row["text"]) for row in source],
        "label": [r["label"] for r in source],
    }
    assert sum(int(batch["weights"].sum()) for batch in batches(examples, batch_size=2)) == 5
    assert len(tfds_source("words", split="train[:40%]", data_dir=data_dir)) == 2
    assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)


@pytest.mark.parametrize(
    "name, split", [("words", "validation"), ("no_such_set", "train"), ("imdb_reviews", "train")]
)
def test_what_is_not_there_says_how_to_prepare_it(data_dir, name, split):
    with pytest.raises(
        ValueError, match=rf"name: expected a data set .*got '{name}' \(split '{split}'"
    ):
        tfds_source(name, split=split, data_dir=data_dir)
    with pytest.raises(ValueError, match=r"download_and_prepare\(\)"):
        tfds_source(name, split=split, data_dir=data_dir)
