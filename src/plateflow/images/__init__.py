"""Images of wells: the plate store, the placement of fields, illumination, histograms; `well.WellImage` opens one."""
