"""From cells to wells: the well table, the quality of fields and wells, the data dictionary."""
