"""Every error this package raises on purpose.

PathotuneError
├── UsageError (ValueError)             the call was wrong: exit code 2
│   ├── SpecError                       a setting has no such name or no such value
│   ├── ManifestError                   a manifest or label table cannot be used as it is
│   └── UnknownNameError (LookupError)  no reader, encoder or head of that name
├── SlideError                          one slide cannot be used: it fails alone, exit code 3
│   ├── SlideNotFoundError (FileNotFoundError)
│   ├── UnreadableSlideError            no reader can open it, or its pixels are damaged
│   ├── SlideChangedError               its file was changed while it was read
│   ├── TileReadError                   one region cannot be read; the slide may go on
│   ├── AnnotationError                 its annotation or mask file is absent, unreadable or of another slide
│   ├── ForeignFileError                another tool's file of its features is damaged, incomplete or contradicts itself
│   └── ScaleError (ValueError)         mpp missing, implausible, anisotropic, or too coarse for the target
├── StoreError
│   ├── NotCommittedError (LookupError) asked for something that is not committed
│   ├── StoreUnwritableError (OSError)  the store's disk is full, read-only or forbidden: the run stops
│   └── CorruptDataError                what lies in the store is not what was committed
├── WeightsError                        an encoder's weights are absent, gated or do not fit
├── OutputExistsError                   something else lies where a file is to be written
├── EncoderMemoryError (MemoryError)    the device has no room for a single tile
├── DeviceLostError                     the device has failed for this process: another one has to go on
├── WorkerLostError                     the process that held the work died too often
└── MissingExtraError (ImportError)     an optional library is needed and absent

A message says what was asked, what was found, and what to do.
"""

from __future__ import annotations


class PathotuneError(Exception):
    """Base of every error raised on purpose."""


class UsageError(PathotuneError, ValueError):
    """The call was wrong; nothing was done."""


class SpecError(UsageError):
    """A setting has no such name, or its value is not allowed."""


class ManifestError(UsageError):
    """A manifest or label table cannot be used as it is."""


class UnknownNameError(UsageError, LookupError):
    """No reader, encoder or head has that name."""


class SlideError(PathotuneError):
    """One slide cannot be used. It fails alone; the others go on."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """The slide's file does not exist."""


class UnreadableSlideError(SlideError):
    """No reader can open the slide, or its pixels are damaged."""


class SlideChangedError(SlideError):
    """A slide's file changed while it was read; what was made of it is thrown away."""


class TileReadError(SlideError):
    """One region of a slide cannot be read."""


class AnnotationError(SlideError):
    """A slide's annotation or mask file is absent, ambiguous, unreadable, or does not fit the slide."""


class ForeignFileError(SlideError):
    """Another tool's file of a slide's features is damaged, incomplete, or contradicts itself."""


class ScaleError(SlideError, ValueError):
    """The slide's physical scale is missing, implausible, anisotropic, or too coarse for what was asked."""


class StoreError(PathotuneError):
    """The store cannot do what was asked."""


class NotCommittedError(StoreError, LookupError):
    """What was asked for is not committed in this store."""


class StoreUnwritableError(StoreError, OSError):
    """The store cannot be written: full, read-only or forbidden. Every slide would meet it, so the run stops."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        if number is not None:
            self.errno = number


class CorruptDataError(StoreError):
    """What lies in the store differs from what was committed."""


class WeightsError(PathotuneError):
    """An encoder's weights are absent, gated, or do not fit the architecture."""


class OutputExistsError(PathotuneError):
    """Something else lies where a file is to be written."""


class EncoderMemoryError(PathotuneError, MemoryError):
    """The device has no room for an encoder and a single tile."""


class DeviceLostError(PathotuneError):
    """The device has failed, and stays failed for this process; a new one may have it back."""


class WorkerLostError(PathotuneError):
    """The process that held a piece of work died too often."""


class MissingExtraError(PathotuneError, ImportError):
    """An optional library is needed and absent."""

    def __init__(self, library: str, extra: str, purpose: str, *, source: str | None = None) -> None:
        """Say what is missing and how it is had.

        Args:
            library: the module that is absent.
            extra: of this package that brings it.
            purpose: what needs it.
            source: where it is had, for a library that no extra can bring.
        """
        how = f"Install it with: pip install 'pathotune_pipeline[{extra}]'" if source is None else source
        super().__init__(f"{purpose} needs {library}, which is not installed. {how}")
