"""Random affine augmentation of a batch, in the graph: a GPU never waits for a Python loop."""

from typing import Any

from pipeline.backend import keras

ops = keras.ops


class RandomAffine(keras.layers.Layer):
    """Rotate, zoom, shift and shear every image of a batch at random; in training only.

    Each image gets one transformation, drawn uniformly and independently, with bilinear
    interpolation: an angle within ±rotation, a scale within 1 ± zoom and an offset within ±shift
    for each axis, a shear within ±shear. Pixels from outside the image are background, 0. Digits
    are never flipped: a mirrored 2 is not a 2.

    Input and output: (n, 28, 28, 1), values 0 to 255; the output is float32.

    Args:
        rotation: degrees.
        zoom: relative to the size.
        shift: pixels.
        shear: pixels sideways per pixel of height.
        seed: the draws depend on it and on the number of calls so far, which is one of the layer's
            variables, so that a resumed run draws what an uninterrupted one would.
    """

    def __init__(self, rotation: float, zoom: float, shift: float, shear: float, seed: int) -> None:
        super().__init__(name="random_affine", dtype="float32")
        self.rotation, self.zoom, self.shift, self.shear = rotation, zoom, shift, shear
        self.random = keras.random.SeedGenerator(seed)
        # 1; 0 to leave images as they are.
        self.strength = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, images: Any, training: bool = False) -> Any:
        """Augment the batch in training; otherwise return it as it is, in float32."""
        images = ops.cast(images, "float32")
        if not training or not (self.rotation or self.zoom or self.shift or self.shear):
            return images
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        return ops.image.affine_transform(
            images,
            self._transforms(count, height, width),
            interpolation="bilinear",
            fill_mode="constant",
            fill_value=0.0,
        )

    def _transforms(self, count: Any, height: int, width: int) -> Any:
        """Draw one inverse transformation per image, (count, 8), as affine_transform takes it.

        Pixel (x, y) of the result comes from (a x + b y + c, d x + e y + f) of the image; the last
        two of the eight numbers, for perspective, are 0.
        """
        draw = keras.random.uniform((6, count), minval=-1.0, maxval=1.0, seed=self.random)
        draw = draw * self.strength
        angle = draw[0] * (self.rotation * 3.141592653589793 / 180)
        shear = draw[1] * self.shear
        scale_x, scale_y = 1 + draw[2] * self.zoom, 1 + draw[3] * self.zoom
        cosine, sine = ops.cos(angle), ops.sin(angle)
        a, b = cosine * scale_x, (shear * cosine - sine) * scale_y
        d, e = sine * scale_x, (shear * sine + cosine) * scale_y
        # Rotate about the middle of the image, then shift.
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        c = middle_x - a * middle_x - b * middle_y + draw[4] * self.shift
        f = middle_y - d * middle_x - e * middle_y + draw[5] * self.shift
        none = ops.zeros_like(a)
        return ops.stack([a, b, c, d, e, f, none, none], axis=1)
