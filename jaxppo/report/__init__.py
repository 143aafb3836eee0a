"""Reports: pages, sections and figures of results that are known."""
