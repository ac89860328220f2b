"""The learning-rate range test (Smith, WACV 2017)."""
