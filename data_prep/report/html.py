"""Pages from templates: one file each, no scripts."""

from collections.abc import Iterable


def render(template: str, *packages: str, **values: object) -> str:
    """Fills a template.

    Args:
        template: Name of a file in a folder `templates` of one of the packages.
        *packages: Where to look, the first one first; what they share
            (`page.html`, `style.css`) is in this one.
        **values: For the names in it.
    """
    return _fill(template, packages, True, values)


def render_text(template: str, *packages: str, **values: object) -> str:
    """Fills a template of plain text, such as Markdown, and escapes nothing.

    Args:
        template: As in `render`.
        *packages: As in `render`.
        **values: For the names in it.
    """
    return _fill(template, packages, False, values)


def _fill(
    template: str, packages: Iterable[str], escapes: bool, values: dict
) -> str:
    import jinja2  # every worker imports the pages' modules, and writes none

    places = [jinja2.PackageLoader(name) for name in packages]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [*places, jinja2.PackageLoader("data_prep.report")]
        ),
        autoescape=escapes,
        keep_trailing_newline=not escapes,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)
