"""Our scores and banks as the classes that other libraries' loops call: torchmetrics and Lightning."""
