"""The same verbs as Prefect flows. The only place that imports Prefect."""
