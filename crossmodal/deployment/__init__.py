"""Trained encoders outside of this package: as ONNX, torch.export and timm files, and as backbones."""

from typing import TYPE_CHECKING

from modalities.common.lazy import lazily

if TYPE_CHECKING:
    from crossmodal.deployment.backbone import Backbone as Backbone
    from crossmodal.deployment.exporting import export as export
    from crossmodal.deployment.graph import DeploymentError as DeploymentError

__getattr__ = lazily(__name__, backbone=("Backbone",), exporting=("export",), graph=("DeploymentError",))
