"""nuScenes with the class counts of the released recipes."""

from mmdet3d.registry import DATASETS

from .checked_dataset import CheckedNuScenesDataset


@DATASETS.register_module()
class AllBoxesNuScenesDataset(CheckedNuScenesDataset):
    """``CheckedNuScenesDataset`` that counts all boxes of a frame for class balancing.

    ``CBGSDataset`` draws frames by the classes they hold. In mmdet3d 1.0, with which CMT was
    trained, a box counts whether or not a LiDAR point lies in it; 1.4 counts only those with
    points. The boxes that the model is trained on are the same: those with points.
    """

    def get_cat_ids(self, idx: int) -> set[int]:
        """Classes of all boxes of a frame, -1 for those of no class.

        Args:
            idx: Number of the frame.
        """
        instances = self.get_data_info(idx)['instances']
        return {self.label_mapping[instance['bbox_label_3d']] for instance in instances}
