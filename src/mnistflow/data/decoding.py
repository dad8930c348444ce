"""A picture's file -> an image. Imports nothing of this project, because MLflow stores it with each logged model."""

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Images = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")


class PictureError(ValueError):
    """Why a file is no picture that can be decoded: a clause without the file's name."""


def decode(content: bytes, shape: tuple[int, ...]) -> Images:
    """A picture file -> an image of the given shape, (height, width) in grey or (height, width, 3) in colour.

    It is turned as EXIF says, laid onto white where it is transparent, of an animation the first frame, and brought to
    the size with its aspect ratio kept, antialiased, black filling what remains on both sides. A picture of the right
    size keeps its pixels as they are.

    Raises:
        PictureError: it is no PNG, JPEG, BMP, GIF or WebP picture, it is damaged, or larger than 89 million pixels.
    """
    return decode_with_size(content, shape)[0]


def decode_with_size(content: bytes, shape: tuple[int, ...]) -> tuple[Images, tuple[int, int]]:
    """As `decode`, with the height and width in the file, as it is shown."""
    image, size = opened(content, 2 * max(shape[:2]))
    return _fit(image, shape), size


def _fit(image: Image.Image, shape: tuple[int, ...]) -> Images:
    """A picture brought to a shape, as `decode` describes it."""
    height, width = shape[:2]
    image = image.convert("RGB" if len(shape) == 3 else "L")
    if image.size != (width, height):
        scale = min(width / image.width, height / image.height)
        inner = max(1, round(scale * image.width)), max(1, round(scale * image.height))
        scaled, image = image.resize(inner, Image.Resampling.BICUBIC), Image.new(image.mode, (width, height))
        image.paste(scaled, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return np.asarray(image)


def opened(content: bytes, side: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, in grey (L) or in colour (RGB), and its height and width in the file, as it is shown.

    A JPEG picture is decoded at a half, a quarter or an eighth of its size, where each side remains at least `side`.

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
                if file.getexif().get(0x0112, 1) >= 5:  # orientation: it lies on its side
                    width, height = height, width
                if side:
                    file.draft(None, (side, side))
                return _plain(ImageOps.exif_transpose(file)), (height, width)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise PictureError("more than 89 million pixels") from error
        except UnidentifiedImageError as error:
            raise PictureError("no PNG, JPEG, BMP, GIF or WebP picture, whatever its name says") from error
        except PictureError:
            raise
        except Exception as error:  # decoders raise nearly everything at damaged files
            raise PictureError(f"corrupt: {str(error) or type(error).__name__}") from error


def _plain(image: Image.Image) -> Image.Image:
    """An image of any mode as 8 bits a channel, in grey (L) or in colour (RGB)."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise PictureError("floating-point pixels, whose range is not known")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
