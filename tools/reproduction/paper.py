"""Numbers of the paper, to stand beside what is measured. Accuracies in %."""

#: Table 1 and 4: parameters (M), branches, RepVGG top-1, ODBB top-1; B1's 14.33 M is a misprint, see docs
TABLE4 = {
    'A0': (8.3, 66, 72.41, 72.96),
    'A1': (12.78, 66, 74.46, 75.24),
    'A2': (25.49, 66, 76.48, 76.86),
    'B1': (14.33, 84, 78.37, 78.61),
    'B2': (80.31, 84, 78.78, 79.10),
    'B3': (110.96, 84, 80.52, 80.97),
}

#: Table 2: parameters (M), FLOPs (G), seconds on a V100 for a batch of 128, on a Xavier for one image, GPU-days of
#: search and retraining, top-1
TABLE2 = {
    'ODBB-A1': (12.78, 2.4, 0.031, 0.028, '24+0', 75.24),
    'ODBB-A2': (25.49, 5.1, 0.038, 0.031, '24+0', 76.86),
    'ODBB-B3': (110.96, 26.2, 0.107, 0.106, '50+0', 80.97),
}

#: Table 3: top-1 of VGG-16 on CIFAR-10. It has no row for RepVGG.
TABLE3 = {'plain': 93.83, 'random': 93.91, 'dbb': 94.45, 'acb': 94.13, 'odbb': 94.68}

#: Table 5: COCO AP, seconds an image
TABLE5 = {'ResNet-18': (28.1, 0.065), 'ODBB-A0': (31.4, 0.048), 'ResNet-101': (34.6, 0.141), 'ODBB-B3': (37.3, 0.148)}
