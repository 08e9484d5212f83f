"""COVID-19 in chest CT, segmented: the package behind the notebooks. Import modules by name; nothing heavy loads here."""

__version__ = "0.1.0"
