"""What `harness gallery` trains: a scale for every kind of data, the small ones longer than a study would."""

GALLERY: dict[str, dict[str, object]] = {
    "digits": {"train.steps": 2000},
    "digits_dit": {},
    "digits_classes": {},
    "fashion_small": {},
    "points": {},
    "cells": {"train.steps": 5000},
    "transport": {"train.steps": 5000},
    "sequences": {},
}
"""{scale: what is changed in it}, in the order of the table."""
