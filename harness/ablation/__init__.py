"""Studies and searches: planned in `design`, carried out in `execute`, told in `report`."""
