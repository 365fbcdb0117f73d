"""The site qualification: speed, reproducibility, and a kill with resumption, on slides of the site."""
