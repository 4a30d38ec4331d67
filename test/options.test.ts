import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { type Config, checkConfig, DEFAULTS, onlyCpu, presetOf } from '../src/core/config.js';
import { PRESET_NAMES, PRESETS } from '../src/core/presets.js';
import { FastswitchError } from '../src/errors.js';
import { formatSize, parseSize } from '../src/flags.js';
import { helpText, parseOptions, printConfig, version } from '../src/options.js';

const folder = mkdtempSync(join(tmpdir(), 'fastswitch-options-'));
afterAll(() => rmSync(folder, { recursive: true }));

function file(content: unknown): string {
  const path = join(folder, 'config.json');
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

function serve(argv: readonly string[] = [], environment: Record<string, string> = {}) {
  const options = parseOptions(argv, environment);
  if (options.show !== null) throw new Error(`shows ${options.show}`);
  return options;
}

const configOf = (...given: Parameters<typeof serve>): Config => serve(...given).config;

/** The message with which options are refused. */
function refusal(argv: readonly string[], environment: Record<string, string> = {}): string {
  try {
    parseOptions(argv, environment);
  } catch (error) {
    if (error instanceof FastswitchError && error.code === 'bad_config') return error.message;
    throw error;
  }
  throw new Error('accepted');
}

describe('options', () => {
  it('are the defaults and the model of the package where nothing is given', () => {
    expect(configOf()).toEqual({ ...DEFAULTS, model: resolve('models/demo') });
    expect(Object.isFrozen(configOf())).toBe(true);
    expect(new Set(Object.values(serve().sources))).toEqual(new Set(['default']));
  });

  it('come from flags, with a space or an equals sign; the last one counts', () => {
    const config = configOf([
      '--device-kv',
      '64MiB',
      '--port=0',
      '--policy',
      'fcfs',
      '--policy',
      'priority',
      '--model',
      'a/b',
      '--stall-seconds',
      '2.5',
    ]);
    expect(config).toMatchObject({
      deviceKvBytes: 2 ** 26,
      port: 0,
      policy: 'priority',
      model: resolve('a/b'),
      stallSeconds: 2.5,
    });
  });

  it('come from flags before environment before file before defaults', () => {
    const path = file({ port: 1, host: 'file', 'device-kv': '1MiB', 'max-running': 8 });
    const { config, sources } = serve(['--config', path, '--port', '3'], {
      FASTSWITCH_PORT: '2',
      FASTSWITCH_HOST: 'environment',
    });
    expect(config).toMatchObject({ port: 3, host: 'environment', deviceKvBytes: 2 ** 20, maxRunning: 8, seed: 0 });
    expect(sources).toMatchObject({
      port: 'flag',
      host: 'environment',
      deviceKvBytes: 'file',
      maxRunning: 'file',
      seed: 'default',
    });
  });

  it('come from the file that the environment names', () => {
    expect(configOf([], { FASTSWITCH_CONFIG: file({ seed: 7 }) }).seed).toBe(7);
  });

  it('take an empty variable as not given, and leave other variables alone', () => {
    expect(configOf([], { FASTSWITCH_PORT: '', FASTSWITCH_TEST_SEEDS: '3', PORT: 'x' }).port).toBe(8080);
  });

  it('leave the variables alone that say where the libraries of a GPU lie', () => {
    const variables = { FASTSWITCH_LIBCUDA: 'a', FASTSWITCH_CUBLASLT: 'b', FASTSWITCH_CUDA_KERNELS: 'c', FASTSWITCH_CUDA: 'off' };
    expect(configOf([], variables)).toEqual(configOf());
  });

  it.each(['auto', 'cpu', 'cuda', 'cuda:0', 'cuda:12'])('know the device %s', (device) => {
    expect(configOf(['--device', device]).device).toBe(device);
  });

  it('keep what only the CPU has for "auto", which then is the CPU', () => {
    expect(onlyCpu(configOf(['--quantize', 'q8']))).toBe('--quantize q8 is for the CPU only');
    expect(onlyCpu(configOf(['--kv-dtype', 'f32']))).toBe('--kv-dtype f32 is for the CPU only');
    expect(onlyCpu(configOf(['--kv-dtype', 'bf16', '--threads', '2']))).toBeNull();
  });

  it('have a switch that stands alone among the flags, and is true or false elsewhere', () => {
    expect(configOf(['--journal-content', '--journal', 'a/b'])).toMatchObject({ journalContent: true, journal: resolve('a/b') });
    expect(configOf([], { FASTSWITCH_JOURNAL_CONTENT: 'true' }).journalContent).toBe(true);
    expect(configOf([], { FASTSWITCH_JOURNAL_CONTENT: '' }).journalContent).toBe(false);
    for (const value of [true, 'true'])
      expect(configOf(['--config', file({ 'journal-content': value })]).journalContent).toBe(true);
    const path = file({ 'journal-content': true });
    const { config, sources } = serve(['--config', path], { FASTSWITCH_JOURNAL_CONTENT: 'false' });
    expect([config.journalContent, sources.journalContent]).toEqual([false, 'environment']);
  });

  it('leave the journal out, and can do so against a file', () => {
    expect(configOf().journal).toBe('');
    const path = file({ journal: 'a/b' });
    expect(configOf(['--config', path]).journal).toBe(resolve('a/b'));
    expect(configOf(['--config', path, '--journal=']).journal).toBe('');
  });

  it('can ask for the help or the version instead', () => {
    expect(parseOptions(['--port', '1', '--help'], {})).toEqual({ show: 'help' });
    expect(parseOptions(['-h'], {})).toEqual({ show: 'help' });
    expect(parseOptions(['--version'], { FASTSWITCH_PORT: 'x' })).toEqual({ show: 'version' });
    expect(version()).toMatch(/^\d+\.\d+\.\d+$/);
  });
});

describe('a preset', () => {
  it('brings its own policy, unless there is one of its own', () => {
    expect(presetOf(configOf())).toMatchObject({ name: 'default', policy: 'fair' });
    expect(presetOf(configOf(['--preset', 'vtc']))).toMatchObject({ name: 'vtc', policy: 'vtc' });
    expect(presetOf(configOf(['--preset', 'vtc', '--policy', 'mlfq'])).policy).toBe('mlfq');
  });

  it('may come with changes, from anywhere', () => {
    const { mechanism } = PRESETS['vllm-0.3'];
    for (const config of [
      configOf(['--preset', 'vllm-0.3+groups']),
      configOf([], { FASTSWITCH_PRESET: 'vllm-0.3+groups' }),
      configOf(['--config', file({ preset: 'vllm-0.3+groups' })]),
    ])
      expect(presetOf(config).mechanism).toEqual({ ...mechanism, groups: true });
  });

  it('is looked at wherever a configuration is', () => {
    expect(checkConfig(configOf())).toBe(null);
    const config = { ...configOf(), preset: 'none' };
    expect(checkConfig(config)).toMatchObject({ type: 'preset', key: 'preset', message: expect.stringContaining('no preset') });
    expect(() => presetOf(config)).toThrow('no preset "none"');
  });
});

describe('what cannot be used', () => {
  it('begins where a relation is broken, not where it just holds', () => {
    expect(configOf(['--max-batch-tokens', '16', '--max-running', '16']).maxBatchTokens).toBe(16);
  });

  const cases: [string, string[], Record<string, string>, string][] = [
    ['an unknown flag with the nearest one', ['--max-runing', '3'], {}, 'unknown flag --max-runing, did you mean --max-running?'],
    ['an unknown flag far from all', ['--constructor'], {}, 'unknown flag --constructor, see --help'],
    ['an unknown short flag', ['-p', '3'], {}, 'unknown flag -p, see --help'],
    ['an argument that is no flag', ['serve'], {}, 'unexpected argument "serve": every option is a flag, see --help'],
    ['a flag without its value', ['--port'], {}, '--port needs a value: --port VALUE or --port=VALUE'],
    [
      'a flag that would swallow another',
      ['--model', '--port', '1'],
      {},
      '--model needs a value: --model VALUE or --model=VALUE',
    ],
    ['a number that is none', ['--seed', '1e3'], {}, '--seed is "1e3"; allowed is an integer, at least 0'],
    ['a number out of range', ['--port', '70000'], {}, '--port is 70000; allowed is an integer, 0 to 65535'],
    [
      'a fraction where whole numbers are meant',
      ['--threads', '1.5'],
      {},
      '--threads is "1.5"; allowed is an integer, 0 to 1024',
    ],
    [
      'a choice that is none',
      ['--policy', 'lifo'],
      {},
      '--policy is "lifo"; allowed is one of auto, fcfs, priority, vtc, fair, mlfq, edf',
    ],
    [
      'a device that is none',
      ['--device', 'gpu'],
      {},
      '--device is gpu; allowed is auto, cpu, cuda or cuda:N, with the number of a GPU ("fastswitch devices" lists them)',
    ],
    ...['*', 'box.lan,*.example.org', 'http://llm.example.org', 'a b'].map(
      (names): [string, string[], Record<string, string>, string] => [
        `a name that no client can say: ${names}`,
        ['--allowed-hosts', names],
        {},
        `--allowed-hosts is ${names}; allowed is names with commas between, such as llm.example.org,box.lan, without patterns, or "" for none`,
      ],
    ),
    [
      'on a GPU, what only the CPU has',
      ['--device', 'cuda'],
      { FASTSWITCH_QUANTIZE: 'q8' },
      'FASTSWITCH_QUANTIZE is q8, which only the CPU engine has; leave it out, or choose --device cpu instead of cuda',
    ],
    ['a preset that is none', ['--preset', 'vllm'], {}, `--preset: no preset "vllm"; there are ${PRESET_NAMES.join(', ')}`],
    ['no preset', ['--preset='], {}, `--preset: no preset ""; there are ${PRESET_NAMES.join(', ')}`],
    [
      'a change of a preset that is none',
      [],
      { FASTSWITCH_PRESET: 'default+waits=never' },
      'FASTSWITCH_PRESET: preset "default+waits=never": write +waits= and one of sync, async, adaptive',
    ],
    ['an empty path', ['--model='], {}, '--model is ""; allowed is a path'],
    ['a value of a switch', ['--journal-content=yes'], {}, '--journal-content takes no value: leave it out to switch it off'],
    [
      'an argument behind a switch',
      ['--journal-content', 'yes'],
      {},
      'unexpected argument "yes": every option is a flag, see --help',
    ],
    [
      'a switch that is neither on nor off',
      [],
      { FASTSWITCH_JOURNAL_CONTENT: '1' },
      'FASTSWITCH_JOURNAL_CONTENT is "1"; allowed is true or false',
    ],
    [
      'a segment for a handful of records',
      ['--journal-segment', '1KiB'],
      {},
      '--journal-segment is 1KiB; allowed is a size (like 64MiB, 1.5GiB, 200MB, or plain bytes), at least 64KiB',
    ],
    [
      'a size that is none',
      [],
      { FASTSWITCH_DEVICE_KV: '64 megs' },
      'FASTSWITCH_DEVICE_KV is "64 megs"; allowed is a size (like 64MiB, 1.5GiB, 200MB, or plain bytes), at least 1',
    ],
    [
      'an unknown variable',
      [],
      { FASTSWITCH_DEVICEKV: '1' },
      'unknown variable FASTSWITCH_DEVICEKV, did you mean FASTSWITCH_DEVICE_KV?',
    ],
    [
      'a broken relation, with both places',
      ['--max-batch-tokens', '16'],
      { FASTSWITCH_MAX_RUNNING: '32' },
      '--max-batch-tokens is 16; allowed is at least FASTSWITCH_MAX_RUNNING (32): every running request computes at least one token in a step',
    ],
  ];
  for (const [what, argv, environment, message] of cases) {
    it(`is refused: ${what}`, () => expect(refusal(argv, environment)).toBe(message));
  }

  const files: [string, unknown, string][] = [
    ['no JSON', '{ port', 'cannot be read: '],
    ['no object', '[1]', 'is not a JSON object'],
    ['an unknown key', { prot: 1 }, 'unknown key "prot" in FILE, did you mean "port"?'],
    ['a file in a file', { config: 'x.json' }, 'unknown key "config" in FILE, see --help'],
    ['a number where text is meant', { host: 7 }, '"host" in FILE is 7; allowed is a text'],
    ['a number where a preset is meant', { preset: 1 }, '"preset" in FILE is 1; allowed is one of vllm-0.3, vllm-1, '],
    ['a preset that is none', { preset: 'vllm' }, '"preset" in FILE: no preset "vllm"; there are vllm-0.3, vllm-1, '],
    ['a value of another kind', { port: true }, '"port" in FILE is true; allowed is an integer, 0 to 65535'],
    ['a number where a switch is meant', { 'journal-content': 1 }, '"journal-content" in FILE is 1; allowed is true or false'],
    ['a switch where a folder is meant', { journal: true }, '"journal" in FILE is true; allowed is a folder, or "" for none'],
    ['a number out of range', { port: -1 }, '"port" in FILE is -1; allowed is an integer, 0 to 65535'],
  ];
  for (const [what, content, message] of files) {
    it(`is refused in a file: ${what}`, () => {
      const path = file(content);
      expect(refusal(['--config', path])).toContain(message.replace('FILE', path));
    });
  }

  it('is refused: a file that is not there', () => {
    expect(refusal(['--config', join(folder, 'none.json')])).toContain('none.json cannot be read: ENOENT');
  });
});

describe('sizes', () => {
  it('are read with binary and decimal units, and without', () => {
    const sizes = ['64MiB', '1.5GiB', '200MB', '4096', '0', '2 KiB', '7b', '1tib', '0.1KiB'].map(parseSize);
    expect(sizes).toEqual([67108864, 1610612736, 200_000_000, 4096, 0, 2048, 7, 2 ** 40, 102]);
  });

  it('are refused where they are none or too large to count', () => {
    for (const text of ['', 'MiB', '-1', '1.', '1e9', '64M', '64 MiBs', '1  KB', '9007199254740993', '99999999TiB'])
      expect(parseSize(text), text).toBe(null);
  });

  it('are printed so that reading them gives the same bytes', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.maxSafeNat(),
          fc.nat(4096).map((n) => n * 2 ** 20),
        ),
        (bytes) => {
          expect(parseSize(formatSize(bytes))).toBe(bytes);
        },
      ),
    );
    expect([0, 1000, 1024, 3 * 2 ** 29, 2 ** 40].map(formatSize)).toEqual(['0', '1000', '1KiB', '1536MiB', '1TiB']);
  });
});

describe('help and the printed configuration', () => {
  const flagOf = new Map(
    printConfig(serve())
      .split('\n')
      .map((line) => line.trim().split(/ +/)[0] as string)
      .map((flag) => [flag, `FASTSWITCH_${flag.toUpperCase().replaceAll('-', '_')}`]),
  );

  it('explain every flag and its variable in at most 100 columns', () => {
    const text = helpText();
    for (const [flag, variable] of flagOf) {
      expect(text).toMatch(new RegExp(`  --${flag}[ \\n]`));
      expect(text).toContain(` ${variable}.`);
    }
    for (const flag of ['--config', '--help', '--version']) expect(text).toContain(`  ${flag}`);
    expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThanOrEqual(100);
    expect(text).toContain('Default 256MiB; FASTSWITCH_DEVICE_KV.');
    expect(text).toMatch(/ {2}--journal DIR +Folder/);
    expect(text).toMatch(/ {2}--journal-content +Put the token ids/);
    expect(text).toContain('Default false; FASTSWITCH_JOURNAL_CONTENT.');
  });

  it('explain every preset, and how to change one', () => {
    const words = helpText().replaceAll(/\s+/g, ' ');
    for (const name of PRESET_NAMES) expect(words).toContain(`${name} ${PRESETS[name].about}`);
    expect(words.match(/\S+ Simulation only\./g)).toHaveLength(2);
    expect(words).toContain('NAME+switch, NAME-switch or NAME+switch=value, as in vllm-0.3+groups');
    for (const key of Object.keys(PRESETS.default.mechanism)) expect(words).toMatch(new RegExp(`Switches: [^.]*\\b${key}\\b`));
  });

  it('know an option for every key of the configuration', () => {
    expect(flagOf.size).toBe(Object.keys(configOf()).length);
    expect(Object.keys(serve().sources).sort()).toEqual(Object.keys(configOf()).sort());
  });

  it('tell where each value came from', () => {
    const path = file({ seed: 4 });
    const lines = printConfig(serve(['--config', path, '--device-kv', '1073741824'], { FASTSWITCH_POLICY: 'priority' })).split(
      '\n',
    );
    const line = (flag: string) =>
      lines
        .find((candidate) => candidate.trim().startsWith(`${flag} `))
        ?.trim()
        .split(/ +/);
    expect(line('device-kv')).toEqual(['device-kv', '1GiB', 'flag']);
    expect(line('policy')).toEqual(['policy', 'priority', 'environment']);
    expect(line('seed')).toEqual(['seed', '4', 'file']);
    expect(line('port')).toEqual(['port', '8080', 'default']);
    expect(line('served-model-name')).toEqual(['served-model-name', '""', 'default']);
    expect(line('preset')).toEqual(['preset', 'default', 'default']);
  });

  it('tell which policy the preset brings', () => {
    const lines = (...argv: string[]) => printConfig(serve(argv)).replaceAll(/ +/g, ' ').split('\n');
    expect(lines('--preset', 'fastserve-prefetch')).toEqual(
      expect.arrayContaining([' preset fastserve-prefetch flag', ' policy auto (mlfq) default']),
    );
    expect(lines('--policy', 'vtc')).toContain(' policy vtc flag');
  });
});
