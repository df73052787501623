"""The command line and a headless Chromium, for the tests of the pages."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from qpsnn_lava import cli


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, stdout and stderr of ``qpsnn ...`` in this process."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qpsnn", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert isinstance(left.value.code, int)
        return (left.value.code, *capsys.readouterr())

    return call


def _browser() -> tuple[str, str]:
    """A Chromium and its driver; skips where there is none."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None or find_spec("selenium") is None:
        pytest.skip("no chromium, chromedriver and selenium here (extra: browser; Debian: apt-get install chromium-driver)")
    return browser, driver


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser, service = _browser()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tmp_path_factory.mktemp("profile")
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(service))
    driver.set_script_timeout(30)
    driver.get("about:blank")  # the browser's own first page asks for pictures
    yield driver
    driver.quit()


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page; afterwards: no errors on the console, and nothing was asked for but the file."""

    def go(text: str, width: int = 1400) -> Any:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        chromium.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        )
        chromium.get(path.as_uri())
        return chromium

    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    yield go
    assert [entry for entry in chromium.get_log("browser") if entry["level"] != "INFO"] == []
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = {one["request"]["url"] for one in sent if one["documentURL"].startswith(("file:", "blob:", "http"))}
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {(tmp_path / "page.html").as_uri()}
