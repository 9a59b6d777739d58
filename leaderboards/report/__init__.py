"""The leaderboard as one static HTML file: tables, plots and a SID explorer, without server and network.

The one door is ``page.html_page(board, details) -> str``. ``board`` is what ``table.build_tables`` gives; ``details``
(``details.ReportDetails``) holds what no record holds: item texts and pictures, made by
``benchmark/commands/report.py``, and why they are missing where they are. ``html_page(board)`` alone is the safe form
for publishing: it carries no data set content at all, items are numbers.

``figures.write_figures(table, folder)`` writes the small SVG plots that published markdown boards link to.
"""
