"""Whether a machine has what is needed, and whether a site's own slides go through it as they should."""

from pathotune_pipeline.doctor.checks import Check, Wanted, examine

__all__ = ["Check", "Wanted", "examine"]
