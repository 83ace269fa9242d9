from seqjax.transducer._loss import joint_transducer_loss, transducer_loss
__all__ = ["joint_transducer_loss", "transducer_loss"]
