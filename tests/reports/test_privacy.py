"""Paths and file names of patients stay out of texts; everything else stays in."""

import pytest

from scantling.reports.privacy import HIDDEN, hide_paths, without_paths


@pytest.mark.parametrize(
    "text",
    [
        "/home/alice/data/case_1.nii.gz",
        "case P1: /mnt/share/Mueller_Anna/scan.nii.gz is cut short",
        r"C:\Users\alice\scan.png cannot be read",
        "images/Mueller_Anna_1970.png: no such file",
        "Mueller_Anna_1970.nii.gz, Mueller_Anna.PNG and Mueller_Anna.dcm",
        "file '../up/Mueller_Anna' is missing",
        "~/runs/alice/out",
    ],
)
def test_paths_and_image_names_are_replaced(text):
    hidden = hide_paths(text)
    assert HIDDEN in hidden
    for secret in ("alice", "Mueller", "Anna", "home", "share"):
        assert secret not in hidden


@pytest.mark.parametrize(
    "text",
    [
        "image is 512 x 640 but its label map is 512 x 512",
        "failed 3/5, spacing 1.5/2.5, 20 ml/s, n/a",
        "the table cases.csv names no case; see dataset.toml",
        "resample with 'scantling prepare' [E-GEO-03]",
        "patient001_frame01: 2.1 % of voxels",
    ],
)
def test_plain_sentences_stay_as_they_are(text):
    assert hide_paths(text) == text


def test_folders_with_spaces_go_whole_when_they_are_known():
    text = "/mnt/ward 7/Anna Mueller/my scan.png: cut short"
    cleaned = without_paths(text, roots=["/mnt/ward 7"], files=["Anna Mueller/my scan.png"])
    assert cleaned == f"{HIDDEN}: cut short"


def test_nested_values_are_cleaned_and_keys_and_numbers_kept():
    value = {"a/b": ["x", 3, None, {"file": "/tmp/secret"}], "t": ("/tmp/secret",)}
    assert without_paths(value) == {"a/b": ["x", 3, None, {"file": HIDDEN}], "t": [HIDDEN]}
