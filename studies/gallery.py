"""The scales that `harness gallery` trains, for every kind of data. Small scales train longer than in a study."""

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
"""{scale: changed settings}, in the order of the table."""
