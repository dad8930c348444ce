"""Picture files -> images. Imports nothing of this project, because MLflow stores this file with each logged model."""

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

Images = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")


class PictureError(ValueError):
    """A file that can't be decoded; the message is the reason, without the file's name."""


def decode(content: bytes, shape: tuple[int, ...]) -> Images:
    """A picture file -> an image of the given shape, (height, width) in grey or (height, width, 3) in colour.

    EXIF orientation is applied, transparency becomes white, and of an animation the first frame is used. The picture is
    resized with its aspect ratio kept, antialiased, and padded with black. A picture of the right size keeps its
    pixels.

    Raises:
        PictureError: it is no PNG, JPEG, BMP, GIF or WebP picture, it is damaged, or larger than 89 million pixels.
    """
    return fit(opened(content, 2 * max(shape[:2]))[0], shape)


def fit(image: Image.Image, shape: tuple[int, ...]) -> Images:
    """A picture in grey or colour -> an image of the given shape, as `decode` describes it."""
    height, width = shape[:2]
    image = image.convert("RGB" if len(shape) == 3 else "L")
    if image.size != (width, height):
        # Not `ImageOps.pad`, in which a very thin picture would be 0 pixels wide.
        scale = min(width / image.width, height / image.height)
        inner = max(1, round(scale * image.width)), max(1, round(scale * image.height))
        scaled, image = image.resize(inner, Image.Resampling.BICUBIC), Image.new(image.mode, (width, height))
        image.paste(scaled, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return np.asarray(image)


def opened(content: bytes, side: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """A picture file -> the picture in grey (L) or colour (RGB), and its height and width after EXIF orientation.

    With `side`, a JPEG file may be decoded at a half, a quarter or an eighth of its size, no side below `side` pixels.

    Raises:
        PictureError: as `decode` does.
    """
    if not content:
        raise PictureError("empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as file:
                width, height = file.size
                if file.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # rotated by 90 degrees
                    width, height = height, width
                if side:
                    file.draft(None, (side, side))
                return _to_8_bits(ImageOps.exif_transpose(file)), (height, width)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise PictureError("more than 89 million pixels") from error
        except UnidentifiedImageError as error:
            raise PictureError("no PNG, JPEG, BMP, GIF or WebP picture, whatever its name says") from error
        except PictureError:
            raise
        except Exception as error:  # decoders raise nearly everything at damaged files
            raise PictureError(f"corrupt: {str(error) or type(error).__name__}") from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A picture of any mode in grey (L) or colour (RGB), transparency replaced by white."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise PictureError("floating-point pixels, whose range is not known")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
