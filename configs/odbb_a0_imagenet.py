# RepNAS on ImageNet, ODBB-A0 (paper, Tables 1 and 4)
_base_ = './_base_/odbb_imagenet.py'
