"""Where the units of a job's work are done: in this process, or in others. Must not know what a unit is."""
