"""Every annotation is a test: shapes and types are checked wherever our code runs under pytest."""

from jaxtyping import install_import_hook

install_import_hook(["modalities", "crossmodal", "pipelines"], "beartype.beartype")
