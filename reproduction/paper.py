"""What tables 1 to 8 print: a table each, rows by system, columns by data set. IS and LPIPS: higher is better."""

import re
from typing import NamedTuple


class Value(NamedTuple):
    """As printed; spread is the figure behind the sign of plus and minus, None where there is none."""
    mean: float
    spread: float | None

    def __str__(self):
        decimals = 3 if self.mean < 1 else 2
        return f'{self.mean:.{decimals}f}' + ('' if self.spread is None else f' ± {self.spread:.2f}')


class Table(NamedTuple):
    """A table; `measures` has one for all columns, or two that alternate."""
    title: str
    measures: tuple
    data: tuple                     # rows of data_sets.DATA
    values: str                     # a line for each row of systems.SYSTEMS


CIFAR = ('cifar10', 'cifar10-20', 'cifar10-10', 'cifar100', 'cifar100-20', 'cifar100-10')
TENTHS = ('cifar10-10', 'cifar100-10')
TABLES = {
    1: Table('100-shot and animal faces, StyleGAN2 at 256', ('fid',),
             ('obama', 'grumpy_cat', 'panda', 'animalface-cat', 'animalface-dog'), '''
        da+fitnets  45.22      25.62      11.24      38.31      55.13
        da          46.87      27.08      12.06      42.44      58.85
        da+kd       31.54±.27  20.13±.13   8.93±.06  32.99±.10  51.63±.17
        lecam       33.16      24.93      10.16      34.18      54.88
        lecam+kd    29.38±.15  19.65±.17   8.41±.05  31.89±.09  50.22±.16
        insgen      45.85      27.48      12.13      41.33      55.12
        insgen+kd   38.28±.25  22.16±.12   9.51±.07  32.39±.08  50.13±.12
        apa         43.75      28.49      12.34      39.13      54.15
        apa+kd      34.68±.21  23.14±.14   8.70±.05  31.77±.09  51.23±.13
        ada         45.69      26.62      12.90      40.77      56.83
        ada+kd      31.78±.22  19.76±.11   8.85±.05  32.81±.10  51.12±.15
    '''),
    2: Table('CIFAR-10 and CIFAR-100, BigGAN', ('fid',), CIFAR, '''
        da+fitnets  8.70±.02  13.70±.08  22.03±.07  11.74±.02  21.76±.06  33.93±.09
        da          8.75±.03  14.53±.10  23.34±.09  11.99±.02  22.55±.06  35.39±.08
        da+kd       8.42±.01  11.01±.07  14.20±.06  10.28±.03  15.60±.08  18.03±.11
        apa         8.28±.02  15.31±.04  25.98±.06  11.42±.04  23.50±.06  45.79±.15
        apa+kd      8.26±.02  11.15±.06  13.86±.07  10.23±.02  19.22±.07  27.11±.10
        lecam       8.46±.06  14.55±.08  16.69±.02  11.20±.09  22.45±.09  27.28±.05
        lecam+kd    8.19±.01  11.45±.07  13.22±.03  10.12±.03  18.70±.05  22.40±.06
        ada         8.99±.03  19.87±.09  30.58±.11  12.22±.02  22.65±.10  27.08±.15
        ada+kd      8.46±.02  14.12±.10  16.88±.08  10.48±.04  19.26±.06  20.62±.09
    '''),
    3: Table('ImageNet at 64, BigGAN', ('is', 'fid'), ('imagenet64-10', 'imagenet64-5', 'imagenet64-2.5'), '''
        da+fitnets  13.29±.50  26.58±.21  11.63±.29  38.11±.33   9.43±.25  57.95±.41
        da          12.76±.34  32.82±.18   9.63±.21  56.75±.35   8.17±.28  63.49±.51
        da+kd       14.25±.66  19.99±.11  12.71±.34  24.70±.14  13.45±.51  30.27±.16
        lecam       11.59±.44  30.32±.24  10.53±.22  39.33±.27   9.99±.26  54.55±.46
        lecam+kd    13.98±.23  22.12±.12  13.86±.45  23.85±.21  13.22±.44  31.33±.15
        ada         12.67±.31  31.89±.17   9.44±.25  43.21±.37   8.54±.26  56.83±.48
        ada+kd      14.14±.32  20.32±.10  14.06±.39  22.35±.11  14.65±.47  28.79±.14
    '''),
    4: Table('The two distillations alone and together', ('fid',),
             ('cifar10-20', 'cifar10-10', 'obama', 'grumpy_cat'), '''
        da          14.53      23.34      46.87      27.08
        da+agkd     12.97±.08  15.85±.06  35.51±.25  23.24±.16
        da+cgkd     12.77±.08  18.66±.09  36.18±.22  23.17±.11
        da+kd       11.01±.07  14.20±.06  31.54±.27  20.13±.13
    '''),
    5: Table('Diversity of the fakes, a tenth of CIFAR', ('lpips',), TENTHS, '''
        da          0.202  0.236
        da+agkd     0.204  0.237
        da+kd       0.221  0.264
    '''),
    6: Table('Other ways to distil, a tenth of CIFAR', ('fid',), TENTHS, '''
        da            23.34±.09  35.39±.08
        da+fitnets    22.03±.07  33.93±.09
        da+labeldist  20.46±.10  34.14±.11
        da+pkt        21.34±.08  32.15±.13
        da+spkd       19.11±.07  31.97±.10
        da+kd         14.20±.06  18.03±.11
    '''),
    7: Table('Other teachers, a tenth of CIFAR', ('fid',), TENTHS, '''
        da            23.34±.09  35.39±.08
        da+kd-tcl     14.98±.09  18.43±.12
        da+kd-blip    15.74±.10  18.88±.11
        da+kd         14.20±.06  18.03±.11
    '''),
    8: Table('Vision-aided training, a tenth of CIFAR', ('fid',), TENTHS, '''
        da            23.34±.09  35.39±.08
        vision-aided  16.24±.08  19.11±.10
        da+kd         14.20±.06  18.03±.11
    '''),
}


def rows(table):
    """[(system, [(data, measure, Value), ...])] in the order of print."""
    columns = [(data, measure) for data in table.data for measure in table.measures]
    found = []
    for line in table.values.strip().splitlines():
        system, *numbers = re.sub(r'\s*±\s*', '±', line).split()
        values = [Value(*[float(part) for part in number.split('±')], *[None] * ('±' not in number))
                  for number in numbers]
        found.append((system, [(*column, value) for column, value in zip(columns, values, strict=True)]))
    return found
