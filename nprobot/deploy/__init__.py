"""Running a trained policy on a robot: controller, safety, simulated robots, server.

Needs numpy, or onnxruntime; neither torch nor stable-baselines3 is imported.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
