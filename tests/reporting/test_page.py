"""Pages hold all that they show, and text in them is text."""

import base64

from PIL import Image

from semantic_routing.reporting.page import Page
from semantic_routing.reporting.table import Table


def test_a_page_needs_no_network_and_no_trust(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    data = base64.b64encode((tmp_path / "red.png").read_bytes()).decode()
    page = Page("<b> & 'title'")
    page.heading("<script>heading")
    page.text("<script>text")
    page.code("<script>code")
    page.image(tmp_path / "red.png", '<script>"caption"', inches=2.5)
    page.table(Table(["<script>head"], [["<script>cell"]], "<script>table caption"))
    page.gallery(["", "<script>column"], {"<script>row": [[tmp_path / "red.png"] * 2]}, width=96)
    text = page.write(tmp_path / "page.html").read_text()
    assert "<script" not in text
    for shown in ("heading", "text", "code", "head", "cell", "table caption", "column", "row"):
        assert f"&lt;script&gt;{shown}" in text
    assert text.count(f'src="data:image/png;base64,{data}"') == 3
    assert text.count('class="pixels" width="96"') == 2
    assert "max-width: 2.5in" in text
    assert "http" not in text
    assert "<title>&lt;b&gt; &amp; &#39;title&#39;</title>" in text
