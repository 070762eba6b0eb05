"""Pictures, exports and the contact sheet of a run, from estimates to its folder and back."""
