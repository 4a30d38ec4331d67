/**
 * All requests that live, of which only the rows in sight are drawn. A grid by its roles and not by its elements, which would
 * lay it out themselves; it takes the keys for all its rows, as a grid does.
 */
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { BoardRequest } from '../../../core/board.js';
import type { Micros, RequestId } from '../../../core/types.js';
import { frames } from './feed.js';
import { Filters, type Looking } from './filters.js';
import { count, ordinal, plural, span } from './format.js';
import { useSize, useSource } from './hooks.js';
import { StateName } from './marks.js';
import { chosen } from './place.js';
import { COLUMNS, type ColumnKey, rowsOf, type Sorting, tenantsOf } from './rows.js';
import { inState } from './states.js';

const ROW_HEIGHT = matchMedia('(pointer: coarse)').matches ? 38 : 27;
/** Drawn beyond what is in sight, so that scrolling shows no gaps. */
const SPARE = 6;

export function Requests({ looking, onLooking }: { readonly looking: Looking; readonly onLooking: (looking: Looking) => void }) {
  const frame = useSource(frames);
  const { filter, sorting } = looking;
  const rows = useMemo(
    () => (frame === null ? [] : rowsOf(frame.requests, filter, sorting, frame.at)),
    [frame?.requests, filter, sorting],
  );
  const tenants = useMemo(() => (frame === null ? [] : tenantsOf(frame.requests)), [frame?.requests]);
  const all = frame?.requests.length ?? 0;
  const sort = (column: ColumnKey) =>
    onLooking({
      ...looking,
      sorting: { column, descending: sorting.column === column ? !sorting.descending : startsDescending(column) },
    });
  return (
    <section class="panel requests" aria-label="Requests">
      <div class="panel-head">
        <h2>Requests</h2>
        <span class="of" role="status">
          {rows.length === all ? plural(all, 'request') : `${count(rows.length)} of ${plural(all, 'request')}`}
        </span>
      </div>
      <Filters looking={looking} tenants={tenants} onLooking={onLooking} />
      <Rows rows={rows} all={all} at={frame?.at ?? 0} sorting={sorting} onSort={sort} />
    </section>
  );
}

/** Of these one first wants to see the most. */
const startsDescending = (column: ColumnKey): boolean =>
  ['since', 'arrivedAt', 'promptTokens', 'generated', 'deviceBlocks', 'hostBlocks', 'preemptions'].includes(column);

interface RowsProps {
  readonly rows: readonly BoardRequest[];
  /** Of everybody. */
  readonly all: number;
  readonly at: Micros;
  readonly sorting: Sorting;
  readonly onSort: (column: ColumnKey) => void;
}

/** The row that the keys act on: of one request, wherever it moves to; where that has gone, whoever stands in its place. */
function useCursor(rows: readonly BoardRequest[]): [cursor: number, put: (row: number) => void] {
  const [, redraw] = useState(0);
  const active = useRef<{ readonly id: RequestId | null; readonly index: number }>({ id: null, index: 0 });
  const found = rows.findIndex(({ id }) => id === active.current.id);
  const cursor = found >= 0 ? found : Math.min(active.current.index, rows.length - 1);
  const row = rows[cursor];
  // Nobody's until it was put somewhere.
  if (active.current.id !== null && row !== undefined) active.current = { id: row.id, index: cursor };
  const put = (index: number) => {
    const id = rows[index]?.id;
    if (id === undefined) return;
    active.current = { id, index };
    redraw((times) => times + 1);
  };
  return [cursor, put];
}

function Rows({ rows, all, at, sorting, onSort }: RowsProps) {
  const { element, height } = useSize<HTMLDivElement>();
  const [first, setFirst] = useState(0);
  const [cursor, put] = useCursor(rows);
  const open = useSource(chosen);
  const inSight = Math.ceil(height / ROW_HEIGHT);
  const from = Math.max(0, Math.min(first, rows.length - inSight) - SPARE);
  const shown = rows.slice(from, from + inSight + 2 * SPARE);
  const isDrawn = from <= cursor && cursor < from + shown.length;
  const onScroll = (event: Event) => setFirst(Math.floor((event.currentTarget as HTMLElement).scrollTop / ROW_HEIGHT));
  const move = (to: number) => {
    const row = Math.max(0, Math.min(rows.length - 1, to));
    put(row);
    const scroller = element.current as HTMLElement;
    const [top, bottom] = [row * ROW_HEIGHT, (row + 1) * ROW_HEIGHT];
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (bottom > scroller.scrollTop + scroller.clientHeight - ROW_HEIGHT)
      scroller.scrollTop = bottom - scroller.clientHeight + ROW_HEIGHT;
  };
  const onKey = (event: KeyboardEvent) => {
    // The heads' buttons have keys of their own.
    if ((event.target as Element).closest('button') !== null) return;
    const steps: Record<string, number> = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: inSight - 2,
      PageUp: 2 - inSight,
      Home: -cursor,
      End: rows.length,
    };
    const step = steps[event.key];
    if (step !== undefined) move(cursor + step);
    else if (event.key === 'Enter' && rows[cursor]) chosen.set(rows[cursor].id);
    else return;
    event.preventDefault();
  };
  return (
    <div
      class="table"
      id="requests-table"
      role="grid"
      aria-label="Requests"
      aria-rowcount={rows.length + 1}
      aria-colcount={COLUMNS.length}
      aria-activedescendant={isDrawn ? `row-${rows[cursor]?.id}` : undefined}
      tabIndex={0}
      ref={element}
      onScroll={onScroll}
      onFocus={() => put(cursor)}
      onKeyDown={onKey}
    >
      <Heads sorting={sorting} onSort={onSort} />
      <Body rows={rows} shown={shown} from={from} at={at} cursor={cursor} open={open} />
      {rows.length === 0 && <p class="nothing">{all === 0 ? 'Nobody asks for anything.' : 'No request is like that.'}</p>}
    </div>
  );
}

function Heads({ sorting, onSort }: Pick<RowsProps, 'sorting' | 'onSort'>) {
  return (
    <div class="heads" role="rowgroup">
      <div class="row" role="row" aria-rowindex={1}>
        {COLUMNS.map(({ key, title, words }) => {
          const order = sorting.column === key ? (sorting.descending ? 'descending' : 'ascending') : 'none';
          return (
            <span class={`cell column-${key}`} role="columnheader" aria-sort={order} key={key}>
              <button type="button" title={words} onClick={() => onSort(key)}>
                {title}
                <span class="order" aria-hidden="true">
                  {{ none: '', ascending: '▲', descending: '▼' }[order]}
                </span>
              </button>
            </span>
          );
        })}
      </div>
    </div>
  );
}

interface BodyProps {
  readonly rows: readonly BoardRequest[];
  readonly shown: readonly BoardRequest[];
  readonly from: number;
  readonly at: Micros;
  readonly cursor: number;
  readonly open: number | null;
}

function Body({ rows, shown, from, at, cursor, open }: BodyProps) {
  const body = useRef<HTMLDivElement>(null);
  // Heights and places are set by script: style attributes are not allowed to the page.
  useEffect(() => {
    if (body.current !== null) body.current.style.height = `${rows.length * ROW_HEIGHT}px`;
  }, [rows.length]);
  return (
    <div class="body" role="rowgroup" ref={body}>
      {shown.map((request, index) => (
        <Row
          key={request.id}
          request={request}
          place={from + index}
          at={at}
          active={cursor === from + index}
          open={open === request.id}
        />
      ))}
    </div>
  );
}

interface RowProps {
  readonly request: BoardRequest;
  readonly place: number;
  readonly at: Micros;
  readonly active: boolean;
  readonly open: boolean;
}

function Row({ request, place, at, active, open }: RowProps) {
  return (
    // The table takes the keys for all its rows.
    <div
      class={`row${active ? ' active' : ''}${open ? ' open' : ''}`}
      role="row"
      id={`row-${request.id}`}
      aria-rowindex={place + 2}
      aria-selected={open}
      style={{ transform: `translateY(${place * ROW_HEIGHT}px)`, height: `${ROW_HEIGHT}px` }}
      onClick={() => chosen.set(request.id)}
    >
      {COLUMNS.map(({ key }) => (
        <span class={`cell column-${key}`} role="gridcell" key={key}>
          {cellOf(request, key, at)}
        </span>
      ))}
    </div>
  );
}

function cellOf(request: BoardRequest, column: ColumnKey, at: Micros) {
  switch (column) {
    case 'id':
      return request.id;
    case 'tenant':
      return request.tenant || '–';
    case 'phase':
      return (
        <>
          <StateName phase={request.phase} />
          {request.ending && <small title="asked to end, and waits for what is in flight">ends</small>}
        </>
      );
    case 'since':
      return span(inState(request, at));
    case 'arrivedAt':
      return span(at - request.arrivedAt);
    case 'generated':
      return (
        <>
          <progress max={request.maxTokens} value={request.generated} aria-hidden="true" />
          {count(request.generated)}
          <small>/{count(request.maxTokens)}</small>
        </>
      );
    case 'rank':
      return request.rank === null ? '–' : ordinal(request.rank);
    case 'priority':
      return ordinal(request.priority);
    default:
      return count(request[column]);
  }
}
