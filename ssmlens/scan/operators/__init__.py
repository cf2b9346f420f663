"""The operators, one file each. Their protocol is `ssmlens.scan.operator.Operator`."""
