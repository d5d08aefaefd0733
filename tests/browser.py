"""A headless Chromium for tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.requirements import require


@contextmanager
def open_browser(scheme: str = "light", size: str = "390,844") -> Iterator[Any]:
    """Of a phone's size, unless another one is given; it prefers `light` or `dark` pages."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    require([] if all(programs) else ["chromium and chromedriver"])
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.add_argument(f"--window-size={size}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    preferred = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preferred]})
    try:
        yield driver
    finally:
        driver.quit()


def complaints(driver: Any) -> list[dict[str, Any]]:
    """What the browser's console holds of errors."""
    return [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
