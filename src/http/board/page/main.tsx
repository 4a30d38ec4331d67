/** The board: follows the server's events and shows what they say. */
import { render } from 'preact';
import { App } from './app.js';
import { follow } from './feed.js';
import { startTheme } from './theme.js';

startTheme();
follow();
render(<App />, document.getElementById('board') as HTMLElement);
