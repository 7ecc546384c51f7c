"""The cluster that a forecast is made for: its size and what it costs."""

from pydantic import Field

from pipeline.config.section import Section


class PlanConfig(Section):
    """The cluster that `faceatlas plan` forecasts for, and its prices, which are yours to state."""

    cpus: int | None = Field(default=None, ge=1, description="CPU cores of the cluster; null: those of this machine.")
    gpus: int | None = Field(default=None, ge=0, description="GPUs of the cluster; null: those of this machine.")
    gpu_hour: float | None = Field(default=None, ge=0, description="Price of a GPU for an hour; null: not known.")
    cpu_hour: float | None = Field(default=None, ge=0, description="Price of a CPU core for an hour; null: not known.")
    currency: str = Field(default="USD", description="Of the prices; only printed.")
