"""The stock models of the table; the first two of a package are tested by ``make test-downstream``."""

CONFIGS = [
    'mmpretrain::resnet/resnet18_8xb32_in1k.py',
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
    'mmpretrain::resnext/resnext50-32x4d_8xb32_in1k.py',
    'mmpretrain::res2net/res2net50-w14-s8_8xb32_in1k.py',
    'mmpretrain::seresnet/seresnet50_8xb32_in1k.py',
    'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py',
    'mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py',
    'mmpretrain::densenet/densenet121_4xb256_in1k.py',
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py',
    'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py',
    'mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',
    'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py',
    'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py',
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_mobilenetv2_8xb64-210e_coco-256x192.py',
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_litehrnet-18_8xb64-210e_coco-256x192.py',
    'mmyolo::yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco.py',
    'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py',
    'mmyolo::yolov6/yolov6_s_syncbn_fast_8xb32-400e_coco.py',
    'mmyolo::rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco.py',
    'mmaction::recognition/tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb.py',
    'mmaction::recognition/tsm/tsm_imagenet-pretrained-mobilenetv2_8xb16-1x1x8-100e_kinetics400-rgb.py',
    'mmrotate::rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota.py',
    'mmrotate::rotated_faster_rcnn/rotated-faster-rcnn-le90_r50_fpn_1x_dota.py',
    'mmocr::textdet/dbnet/dbnet_resnet18_fpnc_1200e_icdar2015.py',
    'mmocr::textrecog/crnn/crnn_mini-vgg_5e_toy.py',
    'mmocr::textdet/panet/panet_resnet18_fpem-ffm_600e_icdar2015.py',
]

TIMM = ['resnet18', 'mobilenetv3_small_050', 'regnetx_002', 'efficientnet_lite0', 'ghostnet_100', 'hrnet_w18_small']

PACKAGES = dict.fromkeys(name.partition('::')[0] for name in CONFIGS)
TESTED = [name for package in PACKAGES for name in [c for c in CONFIGS if c.startswith(f'{package}::')][:2]]
