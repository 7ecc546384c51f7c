"""What the sections of the configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Settings that do not change, and no others than those that are named."""

    model_config = ConfigDict(frozen=True, extra="forbid")
