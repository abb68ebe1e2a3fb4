"""P8, P9, P10: views whose pixels can be traced back, against the usual transforms of the same kind.

All move an image and its label map; ours, `make_views` whole, a weight map too, and it keeps the matrix back to the
source. P8: two 224^2 views of a 512^2 image, turned and cropped, with brightness, contrast, blur and, in the second,
solarising (which MONAI has not), in batches of 16; "separate steps" re-states the published transforms with torch's own
functions, one pass over all pixels for each. P9: a 96^3 view of a 160 x 160 x 128 volume turned about three axes and
scaled, then a power curve; P10: the same turned within its slices. The angles and boxes are those that one fixed key
draws for us; the peers are told them.

Checked are our views against SciPy's `map_coordinates` at the places that their matrices tell, and each peer's own map,
read off a picture of coordinates and given to us: both must show the same image.
"""

from measuring import Row, peer, record, take_turns  # isort: skip  (sets the number of threads first)

import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

from scantling.data.sample import Sample
from scantling.seeding import numpy_generator
from scantling.views import correspondence, geometry
from scantling.views.intensity import IntensityConfig
from scantling.views.lookup import resample_view
from scantling.views.maker import ViewConfig, make_views
from scantling.views.spatial import SpatialDraw, draw_spatial

PICTURE, PICTURE_VIEW = (512, 512), (224, 224)
VOLUME, VOLUME_VIEW = (160, 160, 128), (96, 96, 96)
KEY, SEED, BATCH = (0, 1), 0, 16
BRIGHTNESS, CONTRAST, SIGMA, EXPONENT = 0.1, 0.8, 1.0, 0.8
ROUNDS = 15
ONCE, TWICE = 2e-3, 2e-2  # tolerated of intensities in [0, 1] where an image is interpolated once, or several times
OFF = IntensityConfig(**{name: 0.0 for name in IntensityConfig.model_fields if name.endswith("_probability")})
LOOK = OFF.model_copy(
    update={
        "brightness_probability": 1.0, "brightness": BRIGHTNESS,
        "contrast_probability": 1.0, "contrast": (CONTRAST, CONTRAST),
        "blur_probability": 1.0, "blur": (SIGMA, SIGMA),
    }
)  # fmt: skip
PAIR = ViewConfig(
    n_views=2, rotation_probability=1, rotation_deg=15, scale_probability=0, translate_probability=0,
    crop_probability=1, crop_area=(0.3, 0.6), intensity=LOOK,
    intensity_of_others=LOOK.model_copy(update={"solarise_probability": 1.0, "solarise": (0.5, 0.5)}),
)  # fmt: skip
POWER = OFF.model_copy(update={"gamma_probability": 1.0, "gamma": (EXPONENT, EXPONENT)})
TURNED = ViewConfig(
    rotation_probability=1, rotation_deg=20, rotation_3d_probability=1, rotation_3d_deg=20, scale=(0.85, 0.95),
    scale_probability=1, translate_probability=0, intensity=POWER,
)  # fmt: skip
IN_PLANE = TURNED.model_copy(update={"rotation_3d_probability": 0.0})


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A peer: what is timed, and where it takes any image [channel, *spatial] without changing intensities."""

    work: Callable[[], object]
    move: Callable[[Tensor], Tensor]
    goals: tuple[str, str]
    images: int = 1  # that one call of `work` handles
    tolerated: float = ONCE


def smooth(shape: Sequence[int]) -> Tensor:
    """An image in [0, 1] without detail finer than a few pixels."""
    image = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=tuple(shape)), 6.0)
    return torch.from_numpy((image - image.min()) / np.ptp(image)).float()[None]


def one_sample(image: Tensor, number: int = 0) -> Sample:
    shape = image.shape[1:]
    return Sample(
        image=image,
        label_map=label_map_of(image)[0].long(),
        weight=torch.ones(shape),
        annotated=torch.ones(2, dtype=torch.bool),
        spacing_mm=(1.0,) * len(shape),
        source_from_sample=torch.eye(len(shape) + 1, dtype=torch.float64),
        case_index=number,
        patient_index=number,
        slice_position=0.5,
        key=(KEY[0], KEY[1] + number),
    )


def drawn(config: ViewConfig, view: int, patch_size: Sequence[int], shape: Sequence[int]) -> SpatialDraw:
    """The numbers that `make_views` draws for this view."""
    rng = numpy_generator(SEED, "view", *KEY, view)
    return draw_spatial(rng, config, patch_size=patch_size, spacing_mm=(1.0,) * len(shape), sample_shape=tuple(shape))


def box_of(draw: SpatialDraw) -> tuple[slice, ...]:
    """The crop to whole pixels."""
    assert draw.crop is not None
    return tuple(slice(round(first), round(first + side)) for first, side in draw.crop)


def separate_steps(draws: Sequence[SpatialDraw], image: Tensor, labels: Tensor) -> Contestant:
    """The published pair of transforms step by step, as torchvision's tensor functions do each of them."""

    def rotate(image: Tensor, angle_deg: float, mode: str) -> Tensor:
        cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
        theta = torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]])
        grid = F.affine_grid(theta, [1, 1, *image.shape[1:]], align_corners=False)  # the image is square
        return F.grid_sample(image[None], grid, mode=mode, padding_mode="zeros", align_corners=False)

    def place(image: Tensor, draw: SpatialDraw, mode: str = "bilinear") -> Tensor:
        rows, columns = box_of(draw)
        crop = rotate(image, draw.rotation_deg[0], mode)[..., rows, columns]
        return F.interpolate(crop, size=PICTURE_VIEW, mode=mode, align_corners=False if mode == "bilinear" else None)

    def look(image: Tensor, *, solarise: bool) -> Tensor:
        image = (image * (1 + BRIGHTNESS)).clamp(0, 1)
        image = (CONTRAST * image + (1 - CONTRAST) * image.mean(dim=(-3, -2, -1), keepdim=True)).clamp(0, 1)
        half = math.ceil(2 * SIGMA)
        line = torch.exp(-0.5 * (torch.linspace(-half, half, 2 * half + 1) / SIGMA) ** 2)
        line = line / line.sum()
        padded = F.pad(image, [half] * 4, mode="reflect")
        image = F.conv2d(padded, (line[:, None] * line[None, :])[None, None])
        if solarise:
            image = torch.where(image >= 0.5, 1 - image, image)
        return (image - 0.485) / 0.229

    def pair() -> list[Tensor]:
        made = []
        for number, draw in enumerate(draws):
            made.append(look(place(image, draw), solarise=number > 0))
            made.append(place(labels.float(), draw, "nearest").long())
        return made

    return Contestant(work=pair, move=lambda other: place(other, draws[0])[0], goals=("3", "4"), tolerated=TWICE)


def by_monai_2d(draws: Sequence[SpatialDraw], image: Tensor, labels: Tensor) -> Contestant:
    from monai import transforms as M

    def place(draw: SpatialDraw, keys: Sequence[str]) -> list[object]:
        modes, angle = ("bilinear", "nearest")[: len(keys)], math.radians(draw.rotation_deg[0])
        return [
            M.Rotated(keys, angle, keep_size=True, mode=modes, padding_mode="zeros"),
            M.SpatialCropd(keys, roi_slices=list(box_of(draw))),
            M.Resized(keys, PICTURE_VIEW, mode=modes),
        ]

    look = [
        M.ShiftIntensityd("image", BRIGHTNESS),
        M.ScaleIntensityd("image", minv=None, maxv=None, factor=CONTRAST - 1),
        M.GaussianSmoothd("image", SIGMA),
    ]
    views = [M.Compose([*place(draw, ("image", "label")), *look]) for draw in draws]
    alone = M.Compose(place(draws[0], ("image",)))
    return Contestant(
        work=lambda: [view({"image": image, "label": labels}) for view in views],
        move=lambda other: alone({"image": other})["image"].as_tensor(),
        goals=("4", "5"),
        tolerated=TWICE,
    )


def by_kornia(draws: Sequence[SpatialDraw], image: Tensor, labels: Tensor) -> Contestant:
    from kornia import augmentation as K

    def place(draw: SpatialDraw) -> list[object]:
        assert draw.crop is not None
        angle, area = draw.rotation_deg[0], draw.crop[0][1] * draw.crop[1][1] / math.prod(PICTURE)
        aspect = draw.crop[1][1] / draw.crop[0][1]
        return [
            K.RandomRotation((angle, angle), align_corners=False, p=1.0),
            K.RandomResizedCrop(PICTURE_VIEW, scale=(area, area), ratio=(aspect, aspect), align_corners=False),
        ]

    look = [
        K.RandomBrightness((1 + BRIGHTNESS,) * 2, p=1.0),
        K.RandomContrast((CONTRAST,) * 2, p=1.0),
        K.RandomGaussianBlur((5, 5), (SIGMA, SIGMA), p=1.0),
    ]
    bright = K.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=1.0)
    keys = ["input", "mask"]
    views = [
        K.AugmentationSequential(*place(draws[0]), *look, data_keys=keys),
        K.AugmentationSequential(*place(draws[1]), *look, bright, data_keys=keys),
    ]
    images, masks = (each[None].repeat(BATCH, 1, 1, 1) for each in (image, labels.float()))

    def move(other: Tensor) -> Tensor:
        torch.manual_seed(0)  # it draws from torch's own generator
        return torch.nn.Sequential(*place(draws[0]))(other[None])[0]

    return Contestant(
        work=lambda: [view(images, masks) for view in views],
        move=move,
        goals=("2.5", "3.3"),
        images=BATCH,
        tolerated=TWICE,
    )


def by_monai_3d(draw: SpatialDraw, image: Tensor, labels: Tensor, goals: tuple[str, str]) -> Contestant:
    from monai import transforms as M

    def place(keys: Sequence[str]) -> object:
        return M.RandAffined(
            keys,
            prob=1.0,
            rotate_range=[(math.radians(angle),) * 2 for angle in draw.rotation_deg],
            scale_range=[(1 / s - 1,) * 2 for s in draw.scale],
            spatial_size=VOLUME_VIEW,
            mode=("bilinear", "nearest")[: len(keys)],
            padding_mode="zeros",
        )

    power = M.RandAdjustContrastd("image", prob=1.0, gamma=(EXPONENT, EXPONENT + 1e-6), retain_stats=True)
    view, alone = M.Compose([place(("image", "label")), power]), place(("image",))
    return Contestant(
        work=lambda: view({"image": image, "label": labels}),
        move=lambda other: alone({"image": other})["image"].as_tensor(),
        goals=goals,
    )


def by_batchgenerators(draw: SpatialDraw, image: Tensor, labels: Tensor, goals: tuple[str, str]) -> Contestant:
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    zoom = 1 / draw.scale[0]
    place = SpatialTransform(
        patch_size=VOLUME_VIEW,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=1,
        rotation=lambda image, dim: math.radians(draw.rotation_deg[dim]),
        p_scaling=1,
        scaling=lambda image, dim: zoom,
        p_synchronize_scaling_across_axes=1,
        mode_seg="nearest",  # four times as fast as its default, which interpolates every class
    )
    power = GammaTransform((EXPONENT, EXPONENT + 1e-6), 0.0, False, 1.0, 1.0)
    return Contestant(
        work=lambda: power(**place(image=image, segmentation=labels)),
        move=lambda other: place(image=other)["image"],
        goals=goals,
    )


def by_torchio(draw: SpatialDraw, image: Tensor, labels: Tensor, goals: tuple[str, str]) -> Contestant:
    import torchio as tio

    affine = tio.Affine(
        scales=draw.scale, degrees=draw.rotation_deg, translation=(0, 0, 0), image_interpolation="linear",
        default_pad_value=0,
    )  # fmt: skip
    place = tio.Compose([affine, tio.CropOrPad(VOLUME_VIEW)])
    power = tio.Gamma(gamma=EXPONENT)
    subject = tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=labels))
    return Contestant(
        work=lambda: power(place(subject)),
        move=lambda other: place(tio.Subject(image=tio.ScalarImage(tensor=other))).image.data,
        goals=goals,
    )


def unlike_scipy(image: Tensor, config: ViewConfig, patch_size: tuple[int, ...]) -> float:
    """The largest difference between our views and SciPy's at the places that correspondence tells."""
    batch = make_views([one_sample(image)], config.model_copy(update={"intensity": OFF, "intensity_of_others": None}),
                       patch_size, seed=SEED)  # fmt: skip
    centres = geometry.pixel_centres_mm(patch_size, (1.0,) * len(patch_size))
    places = correspondence.source_positions_mm(batch, centres.expand(1, config.n_views, *centres.shape))
    shown = batch.images[0, :, 0].flatten(1).numpy()
    return max(
        float(np.abs(scipy.ndimage.map_coordinates(image[0].numpy(), at.T, order=1, mode="grid-constant") - own).max())
        for at, own in zip(places[0].numpy(), shown, strict=True)
    )


def unlike_peer(contestant: Contestant, image: Tensor, patch_size: tuple[int, ...]) -> float:
    """The largest difference between a peer's view and ours with the peer's own map, well within the image."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in image.shape[1:]], indexing="ij")
    there = contestant.move(torch.stack([*axes, torch.ones_like(axes[0])])).flatten(1).double().numpy()
    last = np.array(image.shape[1:])[:, None] - 1
    seen = (np.abs(there[-1] - 1) < 1e-5) & ((there[:-1] > 0.5) & (there[:-1] < last - 0.5)).all(axis=0)  # not the rim
    centres = geometry.pixel_centres_mm(patch_size, (1.0,) * len(patch_size)).numpy()
    known = np.column_stack([centres, np.ones(len(centres))])
    fitted, *_ = np.linalg.lstsq(known[seen], there[:-1, seen].T, rcond=None)
    matrix = np.vstack([fitted.T, np.eye(len(patch_size) + 1)[-1]])
    bend = np.abs(known[seen] @ fitted - there[:-1, seen].T).max()
    assert bend < 0.02, f"the peer moves pixels by up to {bend:.3g} pixels from a straight map"
    ours = torch.empty((len(image), *patch_size))
    resample_view(image, (), torch.from_numpy(matrix), outside=(), into=(ours, ()))
    return float((contestant.move(image) - ours).flatten(1)[:, seen].abs().max())


def measure(
    bar: str,
    what: str,
    image: Tensor,
    config: ViewConfig,
    patch_size: tuple[int, ...],
    peers: Mapping[str, Contestant],
    *,
    images: int,
) -> list[Row]:
    """Ours, of so many images a call, and the peers in turns."""
    samples = [one_sample(image, number) for number in range(images)]
    seconds, _ = take_turns(
        {"ours": lambda: make_views(samples, config, patch_size, seed=SEED)}
        | {name: contestant.work for name, contestant in peers.items()},
        rounds=ROUNDS,
        warmups=2,
    )
    ours, exact = seconds["ours"] * 1000 / images, unlike_scipy(image, config, patch_size)
    rows = []
    for name, contestant in peers.items():
        theirs, off = seconds[name] * 1000 / contestant.images, unlike_peer(contestant, image, patch_size)
        rows.append(
            Row(
                bar=bar,
                what=what,
                peer=name,
                ours=ours,
                theirs=theirs,
                unit="ms",
                ratio=theirs / ours,
                floor=contestant.goals[0],
                target=contestant.goals[1],
                check=f"by at most {exact:.0e} unlike SciPy, {off:.0e} unlike the peer with its own map",
                equal=exact < ONCE and off < contestant.tolerated,
            )
        )
    return rows


def label_map_of(image: Tensor) -> Tensor:
    return (image > 0.5).to(torch.int16)


def main() -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the peers about themselves
    image = smooth(PICTURE)
    labels = label_map_of(image)
    draws = [drawn(PAIR, view, PICTURE_VIEW, PICTURE) for view in range(2)]
    peers = {"separate steps": separate_steps(draws, image, labels)}
    if peer("monai"):
        peers["MONAI"] = by_monai_2d(draws, image, labels)
    if peer("kornia"):
        peers[f"kornia, batch of {BATCH}"] = by_kornia(draws, image, labels)
    rows = measure("P8", "two 224^2 views of 512^2", image, PAIR, PICTURE_VIEW, peers, images=BATCH)
    volume = smooth(VOLUME)
    labels = label_map_of(volume)
    for bar, what, config, goals in (
        ("P9", "96^3 view, turned freely", TURNED, (("1.0", "1.3"), ("1.0", "1.3"), ("2.5", "3.5"))),
        ("P10", "96^3 view, turned in plane", IN_PLANE, (("1.8", "2.3"), ("1.8", "2.3"), ("4", "6"))),
    ):
        draw = drawn(config, 0, VOLUME_VIEW, VOLUME)
        peers = {}
        if peer("monai"):
            peers["MONAI"] = by_monai_3d(draw, volume, labels, goals[0])
        if peer("batchgeneratorsv2"):
            peers["batchgeneratorsv2"] = by_batchgenerators(draw, volume, labels, goals[1])
        if peer("torchio"):
            peers["torchio"] = by_torchio(draw, volume, labels, goals[2])
        rows += measure(bar, what, volume, config, VOLUME_VIEW, peers, images=1)
    return record(rows)


if __name__ == "__main__":
    sys.exit(main())
