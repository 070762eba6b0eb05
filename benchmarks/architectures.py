"""The networks of the survey, as URIs: small members of the families of smp, torchvision and timm.

Must not know what is measured on them.
"""

DECODERS = (
    "Unet",
    "UnetPlusPlus",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "Linknet",
    "MAnet",
    "PAN",
    "UPerNet",
    "Segformer",
)
ENCODERS = (
    "resnet18", "dpn68", "vgg11_bn", "se_resnet50", "densenet121", "inceptionv4", "efficientnet-b0", "mobilenet_v2",
    "xception", "timm-skresnet18", "mit_b0", "mobileone_s0",
)  # fmt: skip
"""One small member of each of smp's own encoder families."""
TRANSFORMERS = ("tu-vit_tiny_patch16_224", "tu-deit_tiny_patch16_224", "tu-vit_small_patch32_224")
"""Encoders of smp's DPT, which takes no others."""
TORCHVISION = (
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)
TIMM = (
    "cs3darknet_s", "cspdarknet53", "darknet53", "densenet121", "dla46_c", "ecaresnet26t",
    "efficientnet_lite0", "efficientvit_b0", "ese_vovnet19b_dw", "fastvit_t8", "fbnetc_100", "gcresnext26ts",
    "ghostnet_100", "hardcorenas_a", "hgnetv2_b0", "hrnet_w18_small", "lcnet_050", "mixnet_s", "mobilenetv3_small_100",
    "mobilenetv4_conv_small", "mobilevit_xxs", "nf_resnet26", "regnetx_002", "repvgg_a0", "repvit_m0_9",
    "res2net50_26w_4s", "resnest14d", "resnetblur50", "resnext50_32x4d", "rexnet_100", "selecsls42b", "swiftformer_xs",
    "tf_efficientnet_cc_b0_4e", "tresnet_m", "xception41",
)  # fmt: skip
"""Encoders of timm, each in smp.Unet."""

NETWORKS = (
    *(f"smp:{decoder}?encoder={encoder}&classes=5" for decoder in DECODERS for encoder in ENCODERS),
    *(f"smp:DPT?encoder={encoder}&classes=5&dynamic_img_size=true" for encoder in TRANSFORMERS),
    *(f"torchvision:{name}?num_classes=5" for name in TORCHVISION),
    *(f"smp:Unet?encoder=tu-{name}&classes=5" for name in TIMM),
)
