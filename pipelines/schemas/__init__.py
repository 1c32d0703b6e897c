"""The configs of all pipelines, as frozen dataclasses. They import no torch."""
