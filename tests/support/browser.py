"""Debian's Chromium without a window, for slow tests."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser of playwright; the test is skipped where Chromium is not installed."""
    from playwright.sync_api import sync_playwright

    if not (path := shutil.which("chromium")):
        pytest.skip("chromium is not installed: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags, timeout=300_000)
        yield browser
        browser.close()
