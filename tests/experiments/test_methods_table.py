"""The table in docs/methods.md is the one that the methods' settings give."""

from experiments.figures.methods_table import PAGE, table, with_table


def test_the_page_has_the_table_of_the_settings():
    page = PAGE.read_text()
    assert with_table(page) == page


def test_what_is_published_is_what_the_paper_preset_uses():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table().splitlines()[2:]]
    assert len(rows) > 40
    assert [row for row in rows if row[3] != row[4]] == []
    assert ["`drqv2`", "`sac.noise_steps`"] in [row[:2] for row in rows]
