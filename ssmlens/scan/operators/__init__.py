"""One file an operator: what mixes tokens, behind the protocol of `ssmlens.scan.operator`."""
