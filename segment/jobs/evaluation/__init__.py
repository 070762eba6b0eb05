"""What evaluate and sweep share: the compared methods, labelled and validation images, scoring, and a sweep's grid."""
