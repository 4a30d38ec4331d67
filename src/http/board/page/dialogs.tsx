/** Questions and explanations that come over the page. The browser's own dialog keeps the focus and closes on Escape. */
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { useSource } from './hooks.js';
import { KEYS, singleKeys } from './keys.js';

interface DialogProps {
  readonly title: string;
  readonly onClose: () => void;
  readonly children: ComponentChildren;
}

function Dialog({ title, onClose, children }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    element.current?.showModal();
  }, []);
  return (
    <dialog ref={element} onClose={onClose} aria-label={title}>
      <h2>{title}</h2>
      {children}
    </dialog>
  );
}

interface ConfirmProps {
  readonly title: string;
  readonly action: string;
  readonly onYes: () => void;
  readonly onNo: () => void;
  readonly children: ComponentChildren;
}

export function Confirm({ title, action, onYes, onNo, children }: ConfirmProps) {
  return (
    <Dialog title={title} onClose={onNo}>
      <p>{children}</p>
      <form method="dialog" class="answers">
        <button type="submit">Cancel</button>
        <button type="button" class="danger" onClick={onYes}>
          {action}
        </button>
      </form>
    </Dialog>
  );
}

export function Help({ onClose }: { readonly onClose: () => void }) {
  const on = useSource(singleKeys);
  return (
    <Dialog title="Keys, and how to read the board" onClose={onClose}>
      <table class="keys">
        <tbody>
          {KEYS.map(({ keys, words }) => (
            <tr key={keys}>
              <th scope="row">
                {keys.split(' ').map((key) => (
                  <kbd key={key}>{key}</kbd>
                ))}
              </th>
              <td>{words}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <label class="check">
        <input type="checkbox" checked={on} onChange={() => singleKeys.set(!on)} />
        Keys without Ctrl or Alt act at once
      </label>
      <p>
        The chart is drawn from the machine that the server runs. A dot is a request on its way; a thicker line was used more in
        the last ten seconds; dashed lines give up what was computed. What has no line is forbidden and would stop the server.
      </p>
      <p>
        Rates are of the last second, percentiles of the last ten seconds, read from histograms: between two bounds they are
        estimates. TTFT is from arrival to first token, TBT from one token to the next.
      </p>
      <form method="dialog" class="answers">
        <button type="submit">Close</button>
      </form>
    </Dialog>
  );
}
