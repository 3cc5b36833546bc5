"""Messages of the torch-only parts in a run's log."""

import logging

from mmengine.logging import MMLogger

from cmt_bias.runs.package_log import show_package_log


def test_messages_of_the_package_reach_the_log_of_the_current_run_once(tmp_path):
    show_package_log()
    show_package_log()
    for run in ('first', 'second'):
        MMLogger.get_instance(run, logger_name=run, log_file=str(tmp_path / f'{run}.log'))
        logging.getLogger('cmt_bias').info('said in the %s run', run)
    for run in ('first', 'second'):
        assert (tmp_path / f'{run}.log').read_text().count(f'said in the {run} run') == 1
        assert (tmp_path / f'{run}.log').read_text().count('said in the') == 1
