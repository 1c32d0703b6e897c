"""The configs of the pipelines that train, by pipeline name."""

from pipelines.schemas import certify, pretrain, supervise, transfer

SCHEMAS = {
    "transfer": transfer.Config,
    "supervise": supervise.Config,
    "pretrain": pretrain.Config,
    "certify": certify.Config,
}
TrainedConfig = transfer.Config | supervise.Config | pretrain.Config | certify.Config
