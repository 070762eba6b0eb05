"""The paper's segmentation results on CamVid and on generated scenes."""
