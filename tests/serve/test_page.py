"""The page in a browser, headless Chromium: what one types, sees, and does not see."""

import shutil
import threading

import pytest

pytest.importorskip("flask")
pytest.importorskip("waitress")
pytest.importorskip("tyro")
pytest.importorskip("selenium")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.serve import tiny

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver"),
]
OPTIONS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync disable-dev-shm-usage"
)


@pytest.fixture(scope="module")
def port(service):
    with tiny.running(service) as port:
        yield port


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS.split(), f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With its path given, selenium looks for no driver elsewhere.
    driver = webdriver.Chrome(options=options, service=Driver(CHROMEDRIVER))
    yield driver
    driver.quit()


class Page:
    """The page at a width; what a person would do and see."""

    def __init__(self, driver, port, width):
        self.driver = driver
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(f"http://127.0.0.1:{port}/")
        driver.get_log("browser")

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        wait = WebDriverWait(self.driver, 10)
        return wait.until(lambda _: next((e for e in self.all(selector) if e.is_displayed()), None))

    def type(self, name, text):
        field = self.one(f"#{name}")
        field.clear()
        field.send_keys(text + Keys.ENTER)

    def value(self, script, *arguments):
        return self.driver.execute_script(f"return {script}", *arguments)

    def fits(self):
        return self.value("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(params=[1280, 375])
def page(request, chromium, port):
    return Page(chromium, port, request.param)


def test_a_word_its_phonemes_and_its_heat_map(page, service):
    page.type("word", "decade")
    assert page.one("#say-result h3").text == "decade"
    [said] = service.pronounce(["decade"])
    assert page.one(".said").text.startswith(" ".join(said.phonemes))
    assert [th.text for th in page.all(".heat thead th")] == [*"decade"]
    assert [th.text for th in page.all(".heat tbody th")] == said.phonemes
    cells = page.all(".heat tbody td")
    assert len(cells) == said.attention.size
    shades = page.value(
        "[...document.querySelectorAll('.heat tbody td')]"
        ".map((cell) => getComputedStyle(cell).backgroundColor.match(/[\\d.]+/g).map(Number)[3])"
    )
    assert shades == pytest.approx(0.07 + 0.93 * said.attention.ravel(), abs=0.01)
    titles = [cell.get_attribute("title") for cell in cells[:2]]
    assert titles[1].startswith(f"{said.phonemes[0]}, weight of e: ")
    assert page.fits() and not page.driver.get_log("browser")


def test_a_long_word_fits_and_many_are_a_list(page):
    page.type("word", "abcdefghijklmnop bad cab dad")
    page.one(".short")
    assert len(page.all(".short")) == 4 and not any(box.is_displayed() for box in page.all(".heat"))
    assert page.fits()
    page.all("summary")[1].click()
    assert page.one(".heat").get_attribute("aria-label") == "Attention of bad in percent"
    page.value(
        "document.querySelector('#say-result').replaceChildren(scrolling('x', heatMap("
        "{word: 'm'.repeat(32), phonemes: ['M'], attention: [Array(32).fill(0.5)]})))"
    )
    if page.value("innerWidth") >= 1280:
        box = "document.querySelector('.scroll')"
        assert page.value(f"{box}.scrollWidth <= {box}.clientWidth")


def test_what_is_sent_meanwhile_is_asked_afterwards(page, service):
    gate = threading.Event()
    batcher = service.batchers["pronounce"]
    run, batcher.run = batcher.run, lambda *rows: gate.wait(10) and run(*rows)
    try:
        for word in ("bad", "cab", "dab"):
            page.type("word", word)
    finally:
        gate.set()
        batcher.run = run
    said = "document.querySelector('#say-result').textContent.slice(0, 3)"
    WebDriverWait(page.driver, 10).until(lambda _: page.value(said) == "dab")
    assert len(page.all("#say-result h3")) == 1 and not page.driver.get_log("browser")


def test_a_review_and_how_the_prediction_moves(page, service):
    page.type("text", "This film is not frobnicate good.")
    words = ["this", "film", "is", "not", "frobnicate", "good", "."]
    course = service.sentiment(words)
    assert page.one(".verdict").text.startswith("Positive" if course[-1] >= 0.5 else "Negative")
    label = page.one(".chart").get_attribute("aria-label")
    assert all(f"{word} " in label for word in words)
    dots = page.all(".chart circle")
    heights = [float(dot.get_attribute("cy")) for dot in dots]
    assert heights == pytest.approx([12 + 180 * (1 - p) for p in course], abs=0.1)
    assert len(page.all(".chart .word")) == 6
    assert page.value("document.querySelector('.chart .unknown').textContent") == "frobnicate"
    assert "Words in italics" in page.one("#review-result .note").text
    assert page.fits() and not page.driver.get_log("browser")


def test_what_is_typed_stays_text(page):
    page.type("text", "<img src=x onerror=alert(1)> <b>good</b>")
    assert "onerror" in page.one(".chart").get_attribute("aria-label")
    page.type("word", "<b>hi</b>")
    assert "got '<' in '<b>hi</b>'" in page.one("#say-error").text
    assert not page.all(".result img, .result b, .result script, .error b")


def test_mistakes_are_explained_and_forgotten(page):
    page.type("word", "naïve")
    error = page.one("#say-error")
    assert error.text.startswith("The input was refused: expected letters among")
    assert page.one("#word").get_attribute("aria-invalid") == "true"
    page.type("word", " ")
    WebDriverWait(page.driver, 10).until(lambda _: error.text == "Please type a word first.")
    page.type("word", "bad")
    assert page.one("#say-result h3").text == "bad"
    assert not error.is_displayed() and not page.one("#word").get_attribute("aria-invalid")
    page.one("button[data-for=text]").click()  # an example to try
    assert page.one(".verdict").text


def test_fields_have_names_and_a_keyboard_reaches_all(page):
    for name in ("word", "text"):
        assert page.one(f"label[for={name}]").text
    page.type("word", "bad")
    page.one("#say-result h3")
    page.value("document.activeElement.blur()")
    seen = set()
    for _ in range(14):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.add(page.value("document.activeElement.id || document.activeElement.textContent"))
    assert {"word", "text", "Pronounce", "Classify", "rhythm"} <= seen
    assert page.value("document.querySelector('.scroll').tabIndex") == 0


def test_a_server_that_is_gone(chromium, service):
    with tiny.running(service) as port:
        page = Page(chromium, port, 1280)
        ready, service.ready = service.ready, {"pronounce": False, "sentiment": False}
        try:
            page.type("word", "bad")
            busy = "The server is busy: the model pronounce is not ready yet. Please try again in 5"
            assert page.one("#say-error").text.startswith(busy)
        finally:
            service.ready = ready
    page.type("text", "good")
    assert page.one("#review-error").text.startswith("The server did not answer")
