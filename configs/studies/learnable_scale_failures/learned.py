# Learned from 2.5, one scale.
_base_ = './_base_.py'
