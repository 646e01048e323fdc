"""A thermometer with an alarm interrupt."""
