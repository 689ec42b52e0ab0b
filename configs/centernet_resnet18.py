# CenterNet with ResNet-18 on COCO (paper, Table 5: the baseline of ODBB-A0)
_base_ = './_base_/centernet_140e.py'
